"""How fast decoding is, beside what people run today and beside what no program can beat.

`run` starts every part in a process of its own and makes the table; `pairs` holds the sizes and makes the models;
`peers` are the loops to compare with; `ours` is the engine; `floor` is the time that the hardware needs.
"""
