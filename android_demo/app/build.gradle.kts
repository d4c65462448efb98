import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

val repository = rootDir.parentFile
val bundleAssets = tasks.register<Sync>("bundleAssets") {
    from(repository.resolve("bundles/tiny-int4")) { into("bundle") }
    from(repository.resolve("runtime/omni_runtime/voice/silero")) { include("*.onnx") }
    into(layout.buildDirectory.dir("bundle-assets"))
}

android {
    namespace = "org.pocketomni.app"
    compileSdk = libs.versions.target.sdk.get().toInt()

    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
        targetSdk = libs.versions.target.sdk.get().toInt()
        versionCode = libs.versions.application.code.get().toInt()
        versionName = libs.versions.application.name.get()
        ndk { abiFilters += "arm64-v8a" }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    sourceSets {
        named("main") { assets.srcDir(bundleAssets) }
        listOf("debug", "release").forEach { named(it) { manifest.srcFile("src/gradle/AndroidManifest.xml") } }
    }

    packaging.jniLibs.useLegacyPackaging = true
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_1_8

dependencies {
    implementation(project(":engine"))
    implementation(project(":presenters"))
    implementation(libs.onnxruntime.android)
}
