//! CEL expressions put into parsed documents; pure.
