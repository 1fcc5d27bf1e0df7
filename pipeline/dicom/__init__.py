"""The DICOM edge: bytes from outside become checked headers and volumes here, and nowhere else."""
