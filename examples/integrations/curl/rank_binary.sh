# 17, 4 and 23 as little-endian int64; the other fields in the query string.
printf '\021\0\0\0\0\0\0\0\004\0\0\0\0\0\0\0\027\0\0\0\0\0\0\0' |
  curl -sS --fail-with-body "$PRERANK_URL/v1/prerank?user_id=u7&query=red%20shoe&k=2" \
    -H 'Content-Type: application/octet-stream' --data-binary @-
