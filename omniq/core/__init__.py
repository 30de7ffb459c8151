"""The pure heart of OmniQ: commands in, events out, and the state that events add up to.

Nothing here reads a clock, draws a random number, does I/O or logs; times, new ids and drawn
jitter come in with the command. Reading order: `events`, `transitions`, `task`, `evolve`,
`commands`, `decide`, `projection`; `retry` is the arithmetic of waiting.
"""
