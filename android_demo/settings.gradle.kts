// For Android Studio. It was never run by us: build.py builds and tests the demo. See README.md.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "pocket-omni-android"
include(":engine", ":presenters", ":app")
