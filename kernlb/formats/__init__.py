"""Foreign configuration files, in and out: what each line means here, exactly, approximately or not at all."""
