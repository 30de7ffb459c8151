"""Where a journal lives: the contract (`base`) and the backends that come with OmniQ."""
