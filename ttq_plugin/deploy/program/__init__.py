"""One lowering of a model to typed steps: fusion, shapes and layouts, without any text of C."""
