"""A load test of a running server: at which rate of requests does it still keep its objectives?

    workload    what is asked for: agents by Zipf's law, prompts, lengths
    open_loop   when: a Poisson process, whatever becomes of the requests before
    client      one streamed answer, timed from the moment at which it was to be asked for
    figures     percentiles, errors by code, goodput, objectives
    step        one rate, and whether it holds
    search      the knee: the highest rate at which they hold
    run         one rate after another, as the search wants them
    summary     the result in words; report: as one HTML file

Knows the server by its HTTP API alone.
"""
