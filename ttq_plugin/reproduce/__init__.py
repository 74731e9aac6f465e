"""The papers' tables, ours beside theirs: cells (one repetition of one row), a runner that resumes, and reports."""
