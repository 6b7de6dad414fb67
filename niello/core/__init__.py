"""Words everyone uses: dtypes, shapes, errors, configuration, interned nodes, rewriting, naming."""
