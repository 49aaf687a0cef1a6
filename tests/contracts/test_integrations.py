"""The recipes of examples/integrations: what an engine sends by them is answered as it reads it.

No engine runs here. Each file is rendered as the engine's documentation says that it renders it,
what comes out is sent to the routes of a deployment, and the answer is read by the paths that the
file names.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.api_bodies import WALL
from tests.http_calls import api_of, client_of
from tests.http_servers import Served, served
from tests.small_engine import GivenScores, SmallEngine

from prerank import Client, ClientError
from prerank.core.environment import URL_ENV

EXAMPLES = Path(__file__).parents[2] / "examples" / "integrations"
SCORES = {17: 0.5, 4: 2.0, 23: -1.0}
IDS = ["17", "9", "4", "23"]
"""Items of a page of results; nobody knows 9."""
BEST_FIRST = ["4", "17", "23", "9"]
TOKEN = "s3cret-s3cret"
QUERIES = pytest.mark.parametrize("query", ["red shoe", 'say "hi"\\', "größe 42\n"])


class Deployment:
    """A deployment that asks for a token, is called by a name, and says who searched."""

    def __init__(self, folder: Path) -> None:
        file = folder / "token"
        file.write_text(TOKEN)
        file.chmod(0o600)
        self.engine = SmallEngine(WALL, GivenScores(SCORES))
        self.api = api_of(self.engine, token_file=str(file), allowed_hosts=("prerank.example",))

    def post(self, url: str, headers: Mapping[str, str], body: str) -> Any:
        parts = urlsplit(url)
        with client_of(self.api) as client:
            named = {**headers, "Host": parts.netloc}
            answer = client.post(parts.path, content=body.encode(), headers=named)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def read(name: str) -> Any:
    return json.loads((EXAMPLES / name).read_text())


def at_path(data: Any, path: str) -> Any:
    """The value at a path of JSON, of the steps that the recipes use; ``[*]`` makes it a list."""
    found, many = [data], False
    assert path.startswith("$")
    for name, index in re.findall(r"\.(\w+)|\[(\*|\d+)\]", path):
        if name:
            found = [each[name] for each in found]
        elif index == "*":
            found, many = [inner for each in found for inner in each], True
        else:
            found = [each[int(index)] for each in found]
    return found if many else found[0]


def rendered(template: str, value: Callable[[str], str]) -> str:
    """A template whose ``${name}`` are replaced; a name that nobody knows is an error."""
    return re.sub(r"\$\{([\w.]+)\}", lambda m: value(m[1]), template)


def best_first(ids: Sequence[str], scores: Sequence[float]) -> list[str]:
    return [id for _, id in sorted(zip(scores, ids, strict=True), reverse=True)]


class TestOpenSearch:
    """ML Commons: a connector is a template whose parameters come from the processor."""

    def call(self, deployment: Deployment, given: Mapping[str, Any]) -> Any:
        """The answer to a prediction, after the connector's post-processing."""
        connector = read("opensearch/connector.json")
        (action,) = connector["actions"]
        parameters = connector["parameters"] | given

        def parameter(name: str) -> str:
            found = parameters[name.removeprefix("parameters.")]
            # A text stands between the template's quotes; all else is JSON of its own.
            return json.dumps(found)[1:-1] if isinstance(found, str) else json.dumps(found)

        def credential(name: str) -> str:
            assert name == "credential.token"
            return TOKEN

        headers = {k: rendered(v, credential) for k, v in action["headers"].items()}
        body = rendered(action["request_body"], parameter)
        assert action["post_process_function"] == "connector.post_process.cohere.rerank"
        results = at_path(deployment.post(action["url"], headers, body), "$.results")
        # It needs a result of each document, an integer and a double, and puts them in the order
        # of the documents.
        assert sorted(each["index"] for each in results) == list(range(len(given["documents"])))
        assert all(type(each["relevance_score"]) is float for each in results)
        in_order = sorted(results, key=lambda each: int(each["index"]))
        tensors = [{"name": "similarity", "data": [e["relevance_score"]]} for e in in_order]
        return {"inference_results": [{"output": tensors, "status_code": 200}]}

    @QUERIES
    def test_a_search_is_ordered_for_its_user(self, deployment: Deployment, query: str) -> None:
        inference, rerank = read("opensearch/pipeline.json")["response_processors"]
        inference = inference["ml_inference"]
        search = read("opensearch/search.json")
        search["ext"]["ml_inference"]["params"]["query"] = query
        hits = [{"item_id": id} for id in IDS]
        assert not inference["one_to_one"]
        (input_map,), (output_map,) = inference["input_map"], inference["output_map"]
        given = {
            name: at_path(search, path.replace("$._request", "$"))
            if path.startswith("$._request")
            else [hit[path] for hit in hits]
            for name, path in input_map.items()
        }
        assert given["documents"] == IDS
        answer = self.call(deployment, given)
        ((field, path),) = output_map.items()
        assert inference["full_response_path"]
        assert rerank["rerank"]["by_field"]["target_field"] == field
        assert best_first(IDS, at_path(answer, path)) == BEST_FIRST
        assert deployment.engine.store.users == ["u7"]

    @QUERIES
    def test_a_search_without_a_user_is_nobodys(self, deployment: Deployment, query: str) -> None:
        (processor,) = read("opensearch/pipeline_without_user.json")["response_processors"]
        assert processor["rerank"]["context"]["document_fields"] == ["item_id"]
        search = read("opensearch/search_without_user.json")
        search["ext"]["rerank"]["query_context"]["query_text"] = query
        connector = read("opensearch/connector.json")
        assert connector["actions"][0]["pre_process_function"] == (
            "connector.pre_process.cohere.rerank"
        )
        # What that function makes of a text and its documents.
        given = {
            "query": search["ext"]["rerank"]["query_context"]["query_text"],
            "documents": IDS,
            "top_n": len(IDS),
        }
        answer = self.call(deployment, given)
        scores = at_path(answer, "$.inference_results[0].output[*].data[0]")
        assert best_first(IDS, scores) == BEST_FIRST
        assert deployment.engine.store.users == [""]


class TestElasticsearch:
    """The custom inference service: templates, and paths by which the answer is read."""

    def call(
        self, deployment: Deployment, query: str, ids: list[str], task: Mapping[str, Any]
    ) -> list[tuple[int, float]]:
        endpoint = read("elasticsearch/inference.json")
        assert endpoint["service"] == "custom"
        settings = endpoint["service_settings"]
        parameters = endpoint["task_settings"]["parameters"] | task
        known = settings["secret_parameters"] | {"token": TOKEN} | parameters
        body = rendered(
            settings["request"],
            lambda name: json.dumps({"query": query, "input": ids, **parameters}[name]),
        )
        headers = {k: rendered(v, known.__getitem__) for k, v in settings["headers"].items()}
        answer = deployment.post(settings["url"], headers, body)
        parser = settings["response"]["json_parser"]
        indices = at_path(answer, parser["reranked_index"])
        scores = at_path(answer, parser["relevance_score"])
        assert all(type(index) is int for index in indices)
        assert all(type(score) is float for score in scores)
        return list(zip(indices, scores, strict=True))

    @QUERIES
    def test_a_search_is_ordered(self, deployment: Deployment, query: str) -> None:
        retriever = read("elasticsearch/search.json")["retriever"]["text_similarity_reranker"]
        assert retriever["field"] == "item_id"
        ranked = self.call(deployment, query, IDS, {})
        # The retriever wants a score of each document that it sent.
        assert sorted(index for index, _ in ranked) == [0, 1, 2, 3]
        assert [IDS[index] for index, _ in ranked] == BEST_FIRST
        assert deployment.engine.store.users == ["nobody"]

    def test_a_user_has_an_order_of_their_own(self, deployment: Deployment) -> None:
        asked = read("elasticsearch/rerank_for_user.json")
        task = asked["task_settings"]["parameters"]
        ranked = self.call(deployment, asked["query"], asked["input"], task)
        assert [asked["input"][index] for index, _ in ranked] == ["4", "17", "23"]
        assert deployment.engine.store.users == ["u7"]


@pytest.fixture
def served_scores() -> Iterator[Served]:
    with served(api_of(SmallEngine(WALL, GivenScores(SCORES)))) as found:
        yield found


@pytest.mark.parametrize(
    ("script", "ids"), [("rank.sh", [4, 17]), ("rank_binary.sh", [4, 17]), ("rerank.sh", [1, 0])]
)
def test_each_script_of_curl_gives_the_best_two(
    served_scores: Served, script: str, ids: list[int]
) -> None:
    answer = json.loads(curl(script, served_scores.url))
    found = answer.get("items") or answer["results"]
    assert [item.get("id", item.get("index")) for item in found] == ids


def test_the_event_of_curl_is_taken(served_scores: Served) -> None:
    assert json.loads(curl("event.sh", served_scores.url))["accepted"] == 1


def curl(script: str, url: str) -> str:
    done = subprocess.run(
        ["sh", str(EXAMPLES / "curl" / script)],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", URL_ENV: url},
        capture_output=True,
        text=True,
        check=False,
    )
    if "curl: not found" in done.stderr:
        pytest.skip("curl is not installed")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def recipe(name: str) -> ModuleType:
    path = EXAMPLES / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    # pydantic looks for the names of annotations there.
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


def test_a_compressor_of_langchain_orders_documents(served_scores: Served) -> None:
    documents = pytest.importorskip("langchain_core.documents")
    module = recipe("langchain/prerank_compressor.py")
    given = [documents.Document(page_content=f"item {id}", metadata={"id": id}) for id in IDS]
    with Client(served_scores.url) as client:
        compressor = module.PrerankCompressor(client=client)
        found = compressor.compress_documents(given, "red shoe")
        assert [each.metadata["id"] for each in found] == BEST_FIRST
        assert found[0].page_content == "item 4"
        scores = [each.metadata["relevance_score"] for each in found]
        assert scores == sorted(scores, reverse=True)
        assert "relevance_score" not in given[0].metadata
        for_user = compressor.model_copy(update={"user_id": "u7", "top_n": 2})
        assert [e.metadata["id"] for e in for_user.compress_documents(given, "red")] == ["4", "17"]
        assert compressor.compress_documents([], "red shoe") == []
        with pytest.raises(ClientError):
            compressor.compress_documents(given, " ")
    assert served_scores.api.engine.store.users == ["", "u7", ""]  # type: ignore[attr-defined]


def test_a_postprocessor_of_llama_index_orders_nodes(served_scores: Served) -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    module = recipe("llama_index/prerank_postprocessor.py")
    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=f"item {id}", metadata={"id": id}), score=0)
        for id in IDS
    ]
    with Client(served_scores.url) as client:
        rerank = module.PrerankPostprocessor(client=client, user_id="u7")
        found = rerank.postprocess_nodes(nodes, query_str="red shoe")
        assert [each.node.metadata["id"] for each in found] == BEST_FIRST
        assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
        with pytest.raises(ValueError, match="query"):
            rerank.postprocess_nodes(nodes)
    assert served_scores.api.engine.store.users == ["u7"]  # type: ignore[attr-defined]


def test_every_file_is_named_in_its_readme() -> None:
    for folder in EXAMPLES.iterdir():
        text = (folder / "README.md").read_text()
        for path in folder.iterdir():
            if path.is_file() and path.name != "README.md":
                assert f"`{path.name}`" in text, path
