"""What the names of columns say about their meaning, in the words that click logs commonly use."""

import re

_USERS = (
    "user", "userid", "uid", "usr", "usrid", "useridx", "userhash", "userpseudoid", "member", "memberid", "visitor",
    "visitorid", "customerid", "account", "accountid", "reviewerid", "clientid", "cookie", "cookieid", "deviceid",
    "msno", "session", "sessionid",
)
_KEYS = (
    "id", "key", "rowid", "rowkey", "index", "rowindex", "impressionid", "requestid", "eventid", "logid",
    "recordid", "exampleid", "sampleid", "uuid", "guid", "traceid", "unnamed0",
)
_LABELS = (
    "label", "click", "clicked", "isclick", "isclicked", "clk", "target", "y", "clicklabel",
)
_OTHER_OUTCOMES = (
    "conversion", "converted", "isconverted", "isconversion", "purchase", "purchased", "ispurchase", "ispurchased",
    "buy", "isbuy", "install", "installed", "isinstall", "islike", "isfollow", "iscomment", "isforward", "ishate",
    "longview", "isviewed", "ordered", "isorder",
)
_SPLITS = (
    "split", "set", "fold", "subset", "partition", "dataset", "phase",
)
_WEIGHTS = (
    "sampleweight", "rowweight", "importanceweight", "exampleweight", "instanceweight",
)

_TIME_WORDS = frozenset({
    "time", "timestamp", "ts", "stamp", "date", "datetime", "dt", "day", "hour", "event", "log", "request",
    "impression", "server", "utc", "epoch", "unix", "at", "created", "ms", "sec", "s", "local", "click", "show",
})
_CLOCKS = frozenset({
    "time", "timestamp", "ts", "stamp", "date", "datetime", "dt", "epoch", "day", "hour", "created",
})
_PREDICTION_WORDS = frozenset({
    "probability", "prob", "proba", "propensity", "pscore", "pctr", "pcvr", "prediction", "predicted", "pred",
})
_OUTCOME_WORDS = frozenset({
    "click", "clicks", "clicked", "clk", "conversion", "conversions", "converted", "purchased", "reward", "dwell",
    "outcome", "label",
})
_HISTORY_WORDS = frozenset({
    "history", "hist", "past", "prev", "previous", "last", "recent", "avg", "average", "mean", "count", "cnt",
    "num", "total", "sum", "days", "d", "h", "w", "since", "before", "ago", "seq", "sequence", "list",
    "lifetime", "historical", "prior",
})
_CODE_WORDS = frozenset({
    "id", "ids", "uid", "code", "key", "hash", "zip", "zipcode", "postcode", "postal", "cat", "cate",
    "category", "type", "class", "model", "version", "brand", "ip", "gender", "sex", "country", "city", "region",
    "state", "weekday", "dow", "hour", "month", "week", "position", "pos", "slot", "campaign", "channel", "site",
    "app", "domain", "device", "os", "browser", "tag", "level", "flag", "is", "has", "segment", "group", "user",
    "item", "occupation", "cluster", "advertiser", "publisher", "language", "lang",
})
_AMOUNT_WORDS = frozenset({
    "price", "cost", "amount", "count", "cnt", "num", "number", "total", "sum", "avg", "average", "mean", "min",
    "max", "std", "rate", "ratio", "ctr", "cvr", "score", "age", "days", "hours", "minutes", "seconds", "duration",
    "length", "len", "size", "width", "height", "distance", "views", "visits", "impressions", "clicks", "income",
    "salary", "balance", "budget", "bid", "freq", "frequency", "since", "ago", "delta", "diff", "percent", "pct",
    "discount", "revenue", "temperature", "year", "rank",
})
_SEQUENCE_WORDS = frozenset({
    "history", "hist", "seq", "sequence", "recent", "last", "clicked", "viewed", "browsed", "behavior", "behaviour",
    "past", "previous", "visited", "watched", "bought",
})


def words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: `lastClick_7d` has last, click, 7 and d."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name))


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _rank(name: str, known: tuple[str, ...]) -> int | None:
    """The place of a name among known ones, whatever its case and punctuation."""
    return known.index(_squeezed(name)) if _squeezed(name) in known else None


def user_rank(name: str) -> int | None:
    """0 for the surest name of a user, more for less sure ones; None where the name does not say user or session."""
    return _rank(name, _USERS)


def names_key(name: str) -> bool:
    return _squeezed(name) in _KEYS or _squeezed(name).endswith(("uuid", "guid"))


def names_label(name: str) -> bool:
    return _squeezed(name) in _LABELS


def names_split(name: str) -> bool:
    return _squeezed(name) in _SPLITS


def names_weight(name: str) -> bool:
    return _squeezed(name) in _WEIGHTS


def means(name: str) -> str | None:
    """What numbers in a column of this name are: "code" or "amount"; the last telling word decides (item_price, price_level)."""
    if _squeezed(name).endswith("id"):
        return "code"
    for word in reversed(words(name)):
        if word in _CODE_WORDS:
            return "code"
        if word in _AMOUNT_WORDS:
            return "amount"
    return None


def speak_of_the_same(name: str, other: str) -> bool:
    """Whether two names share a word that says what, singular or plural: clicked_items and item_id."""
    things = [{word.rstrip("s") for word in words(one)} - _SEQUENCE_WORDS - {"id", "list"} for one in (name, other)]
    return bool(things[0] & things[1])


def names_sequence(name: str) -> bool:
    return not _SEQUENCE_WORDS.isdisjoint(words(name))


def names_time(name: str) -> bool:
    """Whether all words of a name speak of time, and one of them of a clock: event_time, but not time_spent."""
    return not _CLOCKS.isdisjoint(words(name)) and _TIME_WORDS.issuperset(words(name))


def suspicion(name: str) -> str | None:
    """Why a column with this name may not be known before the click; None where the name says nothing of the kind."""
    named = frozenset(words(name))
    if _squeezed(name) in _OTHER_OUTCOMES or _squeezed(name) in _LABELS:
        return "it is named like an outcome"
    if named & _HISTORY_WORDS:
        return None
    if named & _PREDICTION_WORDS:
        return "it is named like a prediction or a propensity"
    if named & _OUTCOME_WORDS:
        return "it is named like something that a click brings about"
    return None
