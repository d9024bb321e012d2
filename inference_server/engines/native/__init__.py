"""An engine of our own for the llama family: schedule → run → post-process, and nothing between."""
