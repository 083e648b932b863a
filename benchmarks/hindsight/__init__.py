"""What hindsight could save: clocks and routes searched for a trace, which no policy can know."""
