"""Other APIs in front of the same generation: each converts its request to a chat or completion request, and words
the answer in its own way. There is no second way to generate.
"""
