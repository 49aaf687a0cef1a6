"""What features are, in words for people who look at a score."""

from __future__ import annotations

LEVEL_TITLES = {
    "q": "this query",
    "s": "this query, same segment",
    "c": "this query without spaces",
    "t": "a word of the query",
    "g": "a part of a word",
    "a": "all queries",
}
_WINDOWS = {"7d": "last 7 days", "30d": "last 30 days", "all": "all time"}
_OWN = {
    "user:touched": "the user engaged with it before",
    "user:rank_recency": "how recently, among the user's engagements",
    "user:decay_1m": "the user engaged with it within minutes",
    "user:decay_1h": "the user engaged with it within hours",
    "user:decay_1d": "the user engaged with it within days",
    "user:decay_30d": "the user engaged with it within months",
    "user:count": "how often the user engaged with it",
    "user:same_query": "the user found it by this query before",
    "item:log_age_days": "age of the item",
    "item:age_unknown": "the item's age is unknown",
    "item:log_popularity": "popularity of the item",
    "sparse:g:engage:all": "engagement for parts of words, where the query is rare",
    "sparse:user:rank_recency": "the user's recency, where the query is rare",
    "fresh:q:engage:30d": "engagement for this query, of a new item",
    "graph:user": "near to what the user engaged with",
    "graph:query": "near to what searchers of the query engaged with",
    "cosine:user": "alike to what the user engaged with",
    "cosine:query": "alike to what searchers of the query engaged with",
    "retriever:score": "score of the retriever",
    "retriever:log_rank": "place in the retriever's list",
    "retriever:inverse_rank": "near the top of the retriever's list",
    "retriever:absent": "the retriever says nothing of it",
    "anchor:next": "stands next to what the user touched last",
    "anchor:previous": "stands just before what the user touched last",
    "anchor:log_after": "how far after what the user touched last",
    "anchor:log_before": "how far before what the user touched last",
}
_REQUEST = {
    "query:log_total": "engagements that the query has",
    "query:log_distinct": "items that the query's engagements are spread over",
    "query:recent_share": "how much of the query's engagement is recent",
    "query:sparsity": "how rare the query is",
    "query:log_tokens": "words of the query",
    "user:log_history": "length of the user's history",
    "user:log_minutes_since_last": "time since the user's last engagement",
    "user:repeat_share": "how often the user comes back to an item",
}
_RATES = {
    "coec": "engagement against what its places would lead to",
    "ctr": "engagement when shown",
}


def level_title(prefix: str) -> str:
    """A level of engagement keys (``interactrank.features.schema.LEVELS``)."""
    return LEVEL_TITLES[prefix]


def about(feature: str) -> str:
    """A cross feature of ``FeatureSchema.cross``, a statistic of the request (``REQUEST_NUMERIC``)
    or a number of the catalogue ("item:…"); itself where no words are known.
    """
    if known := _OWN.get(feature) or _REQUEST.get(feature):
        return known
    first, _, rest = feature.partition(":")
    if first == "candidate":
        return f"{rest}, as the caller gave it"
    if first == "item":
        return f"{rest} of the item"
    if feature.startswith("user:touched:"):
        return f"the user did “{rest.removeprefix('touched:')}” with it before"
    what, _, window = rest.rpartition(":")
    if first not in LEVEL_TITLES or window not in _WINDOWS:
        return feature
    said = _RATES.get(what) or ("engagement" if what == "engage" else f"“{what}”")
    return f"{said} for {LEVEL_TITLES[first]}, {_WINDOWS[window]}"
