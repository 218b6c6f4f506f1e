//! What is possible between two processes that follow each other.

