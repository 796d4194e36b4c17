"""Which request goes to the engine next: a bounded queue for each tenant, in front of every engine.

priority  interactive before batch
fair      whose turn it is among tenants
window    how many are let in, and of which priority
rate      how fast work gets done
refusal   who is told at once to come later
users     which adapters are still asked for
queues    all of these, with the clock and those who wait; `turn` is one generation's way through them
timeout   how long a caller gives its request

`docs/explanation/scheduling.md` says what is promised, and why.
"""
