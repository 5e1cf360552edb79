"""The Dockerfile language: lexer, parser, instructions as values, and variable expansion.  Pure; touches no disk."""
