"""How much a caller may do: requests and tokens per minute, requests at once, tokens per month.

tiers     whose limits apply: a principal's checks
checks    the arithmetic of one check, without clock and state
ledger    the state in this process; what Redis does in `lua`, and the same results
shared    the state in Redis, for several gateways
limiter   asks the one or the other; a request's grant
"""
