// Package definition reads build definitions: install.d/NAME.yml and
// commands.d/NAME.yml with their drop-ins and parents become one effective
// Definition. It has no side effects and reports every mistake of a
// definition at once, each with its file, line and cure.
package definition
