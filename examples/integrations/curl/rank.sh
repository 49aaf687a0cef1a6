curl -sS --fail-with-body "$PRERANK_URL/v1/prerank" -H 'Content-Type: application/json' -d '{
  "user_id": "u7", "query": "red shoe", "candidates": [17, 4, 23], "k": 2}'
