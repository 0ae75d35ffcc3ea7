#!/bin/sh
# Stands in for the program under test: does what the test says.
eval "$SCRIPT"
