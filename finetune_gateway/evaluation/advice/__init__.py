"""Advice on a data set: prompt, retrieval or training; by which method; are the rows enough; where.

``rules`` is the table, ``signals`` what is counted of the rows, ``measured`` what a comparison
says, ``places`` where it can be trained, and ``deciding`` puts them together.
"""
