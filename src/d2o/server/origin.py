"""Who sent a request: a browser says on which site's behalf it asks."""


def another_site(host: str, origin: str | None) -> bool:
    """Return whether a request's Origin header names another site than its Host header; no browser sends none."""
    return origin is not None and origin.partition("://")[2].lower() != host.lower()
