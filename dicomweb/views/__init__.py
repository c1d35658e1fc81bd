"""Routes of PS3.18 chapter 10 under /dicom-web: read the request into values, call one function, write the answer."""
