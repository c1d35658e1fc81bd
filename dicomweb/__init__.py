"""Images: one door in (STOW-RS, C-STORE), DICOMweb out."""
