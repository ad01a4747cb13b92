"""Jobs: what is learned from corrections, when, and by whom. The only room that knows RQ.

A job is a row in the database, which a worker claims; the queue only says that there is one. Losing the queue loses
nothing.
"""
