import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_1_8

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

dependencies {
    implementation(project(":engine"))
    testImplementation(libs.junit)
    testImplementation(libs.onnxruntime.jvm)
}

tasks.test {
    systemProperty("bundle", rootDir.resolve("../bundles/tiny-int4"))
    // it needs the libraries of engine/shims, which tests/android builds
    exclude("**/RealEngineTest*")
}
