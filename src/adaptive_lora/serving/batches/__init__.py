"""OpenAI's Files and Batch API: what is uploaded, and who answers it in the background.

upload      a form's file, onto the disk as it arrives
desk        the stores, on threads of their own
lines       the input file, checked, and read again line by line
items       one line, answered as its endpoint would
checkpoint  answers on their way into the database
outcome     the files that a batch leaves
run         one batch, from its claim to its end
runner      which batches this gateway runs
"""
