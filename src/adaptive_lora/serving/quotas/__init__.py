"""How much a caller may do: requests and tokens per minute, requests at once, tokens per month.

tiers     whose limits apply: the accounts of a principal, and their checks
checks    the arithmetic of one check, without clock and state
ledger    the state in this process
lua       the same in Redis, with the same results; `shared` calls it, for several gateways
limiter   asks the one or the other; what one request was granted
metering  the tokens of one generation
"""
