"""Our own Llama-shaped layers for one CPU process: few, large operations with written-out backward passes."""
