"""Hidden states: recording them, and the positions they are read at."""
