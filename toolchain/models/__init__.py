"""Teachers and students: where their parts are, how they are read and built."""
