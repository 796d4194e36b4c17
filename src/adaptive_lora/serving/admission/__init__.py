"""Which request goes to the engine next: a bounded queue for each tenant, in front of every engine.

priority  interactive before batch
"""
