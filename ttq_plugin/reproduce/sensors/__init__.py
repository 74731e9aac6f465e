"""What people wear: compressions of the sensor tasks beside full precision, with intervals over people."""
