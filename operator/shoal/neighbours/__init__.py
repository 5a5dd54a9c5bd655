"""The other operators that Shoal works with where they are installed, one folder each."""
