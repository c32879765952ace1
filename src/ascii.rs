//! Packets as ASCII text and back.
