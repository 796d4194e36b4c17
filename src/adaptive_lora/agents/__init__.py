"""Who answers a request: the grammar of names, the plan, and its execution on the engine."""
