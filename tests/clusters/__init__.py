"""What the tests of real engines share, whichever engine it is."""
