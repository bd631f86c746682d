//! Frame sources behind one trait.
