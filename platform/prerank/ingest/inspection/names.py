"""What the name of a column says of its meaning."""

from __future__ import annotations

import re

CANONICAL, ALIKE, STRONG, WEAK, PART = 1.0, 0.95, 0.9, 0.6, 0.4
"""How much a name says: the platform's own, its other spelling, a usual name, a name of several
meanings, and a name that ends in a usual one."""

STRONG_NAMES: dict[str, str] = {
    "item_id": "item product_id sku doc_id document_id article_id object_id listing_id movie_id "
    "video_id content_id hotel_id offer_id asin pin_id post_id",
    "user_id": "user uid client_id customer_id customer visitor_id account_id member_id shopper_id",
    "query": "q search_query search_term search_terms search_text query_text user_query "
    "search_phrase search_string",
    "action": "event_type action_type event_name action_name interaction_type interaction",
    "request_time": "search_time searched_at query_time requested_at request_ts search_ts query_ts "
    "request_timestamp search_timestamp query_timestamp served_at",
    "event_time": "click_time click_ts clicked_at action_time acted_at happened_at event_ts "
    "event_timestamp action_ts action_timestamp occurred_at interaction_time",
    "timestamp": "ts datetime time unix_time epoch",
    "request_id": "search_id query_id search_request_id qid list_id request result_id ranking_id "
    "req_id",
    "position": "slot pos display_position result_position list_position item_position",
    "event_id": "event_uuid event_uid",
    "retriever_score": "bm25 retrieval_score bm25_score engine_score",
    "retriever_rank": "retrieval_rank engine_rank original_rank initial_rank base_rank",
    "title": "name product_name item_name product_title item_title headline",
    "category": "department category_name product_category item_category genre genres category_id",
    "created_at": "created creation_date published_at publish_date release_date added_at listed_at "
    "date_added upload_time",
}
WEAK_NAMES: dict[str, str] = {
    "item_id": "product doc document article object listing content gtin entity_id video hotel",
    "user_id": "client visitor account member cookie_id device_id profile_id person_id "
    "anonymous_id",
    "query": "search keyword keywords term terms phrase text",
    "action": "event type activity kind behavior behaviour",
    "request_time": "shown_at impression_time",
    "timestamp": "created_at created date logged_at log_time server_time at",
    "position": "rank place index ordinal",
    "event_id": "id uuid log_id message_id",
    "retriever_score": "score relevance similarity relevance_score search_score",
    "title": "label description text",
    "category": "type class section group brand",
    "created_at": "date published year_added first_seen",
}
CATALOGUE_IDS = "id key"
"""What the id of an item may be called where every row is one."""
SESSION = re.compile(r"session|visit(?!or)", re.IGNORECASE)
SEGMENT_NAMES = (
    "country device platform os browser locale language lang region channel app market "
    "site gender tier plan city state currency store device_type app_version"
)


def folded(name: str) -> str:
    """A name without what differs between spellings: ``userId``, ``user_id`` and ``USER-ID``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _table(names: dict[str, str]) -> dict[str, frozenset[str]]:
    return {role: frozenset(map(folded, text.split())) for role, text in names.items()}


_STRONG, _WEAK = _table(STRONG_NAMES), _table(WEAK_NAMES)


def strength(name: str, role: str) -> float:
    """How much the name of a column says that it has a role; 0 for nothing."""
    if name == role:
        return CANONICAL
    plain = folded(name)
    if plain == folded(role):
        return ALIKE
    if plain in _STRONG.get(role, ()):
        return STRONG
    if plain in _WEAK.get(role, ()):
        return WEAK
    # user.id, event.object.id, log_user_id: what stands last says most.
    words = [w for w in re.split(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", name) if w]
    for start in range(1, len(words)):
        ending = folded("".join(words[start:]))
        if ending == folded(role) or ending in _STRONG.get(role, ()):
            return PART
    return 0.0
