curl -sS --fail-with-body "$PRERANK_URL/v1/events" -H 'Content-Type: application/json' -d '{"events": [
  {"user_id": "u7", "item_id": 17, "action": "click", "query": "red shoe",
   "event_time": "'"$(date -u +%Y-%m-%dT%H:%M:%SZ)"'"}]}'
