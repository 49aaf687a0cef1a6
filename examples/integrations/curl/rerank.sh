curl -sS --fail-with-body "$PRERANK_URL/v1/rerank" -H 'Content-Type: application/json' \
  -H 'X-User-Id: u7' -d '{"query": "red shoe", "documents": ["17", "4", "23"], "top_n": 2}'
