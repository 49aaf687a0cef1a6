"""A LangChain document compressor: documents are items, and the deployment orders them."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from prerank import Client, RerankRequest


class PrerankCompressor(BaseDocumentCompressor):
    """Orders documents by the predicted engagement with the item that each stands for.

    Attributes:
        client: of the deployment.
        id_key: key of a document's metadata that holds the item's id.
        user_id: who searches; None for nobody. ``model_copy(update={"user_id": …})`` is cheap.
        top_n: documents to keep; None for all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    id_key: str = "id"
    user_id: str | int | None = None
    top_n: int | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents, the most relevant one first.

        Raises:
            KeyError: a document's metadata has no item id.
            prerank.ClientError: the deployment gives no answer.
        """
        found = self.client.rerank(
            RerankRequest(
                query=query,
                documents=[document.metadata[self.id_key] for document in documents],
                top_n=self.top_n,
                user_id=self.user_id,
            )
        )
        ranked = zip(found.indices.tolist(), found.relevances.tolist(), strict=True)
        return [
            documents[at].model_copy(
                update={
                    "metadata": documents[at].metadata
                    | {"relevance_score": score, "prerank_request_id": found.request_id}
                }
            )
            for at, score in ranked
        ]
