"""A LlamaIndex node postprocessor: nodes are items, and the deployment orders them."""

from __future__ import annotations

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import ConfigDict

from prerank import Client, RerankRequest


class PrerankPostprocessor(BaseNodePostprocessor):
    """Orders nodes by the predicted engagement with the item that each stands for.

    Attributes:
        client: of the deployment.
        id_key: key of a node's metadata that holds the item's id.
        user_id: who searches; None for nobody.
        top_n: nodes to keep; None for all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    id_key: str = "id"
    user_id: str | int | None = None
    top_n: int | None = None

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores."""
        return "PrerankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("a ranking needs the query: pass query_str or query_bundle")
        found = self.client.rerank(
            RerankRequest(
                query=query_bundle.query_str,
                documents=[node.node.metadata[self.id_key] for node in nodes],
                top_n=self.top_n,
                user_id=self.user_id,
            )
        )
        ranked = zip(found.indices.tolist(), found.relevances.tolist(), strict=True)
        return [NodeWithScore(node=nodes[at].node, score=score) for at, score in ranked]
