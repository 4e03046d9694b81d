"""Each step of a run: reads folders, writes one folder."""
