"""Answers are generated once: the gateway's exact-match cache, and one generation for identical requests.

key      what makes two requests the same; the tenant's salt for the engine's own prefix cache
codec    an answer's chunks <-> bytes, bound to their key
store    where the bytes lie: in this process, or in Redis
flight   one generation that several requests read as it comes
answers  the way to an answer: kept, in flight, or from the engine

`docs/explanation/caching.md` says what is cached, and what never.
"""
