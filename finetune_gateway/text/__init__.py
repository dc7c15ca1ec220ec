"""Texts as people see them: quoted, searched, personal data masked."""
