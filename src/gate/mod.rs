//! May we pull: quantities, limits, quota readings, reasons; pure.
