"""Build the Android demo without Gradle and without the Android SDK."""
