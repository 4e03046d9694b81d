"""Files copied as they are into every bundle; they run there without this package."""
