"""Kills at random moments of everything that may be run again (`make kills`)."""
